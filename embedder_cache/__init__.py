"""The nightly job: bundle and items -> release."""
