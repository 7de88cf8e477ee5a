"""Items, changes, popularity and signals as the nightly job reads them."""
