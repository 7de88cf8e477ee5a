"""The commands `prepare`, `schema`, `validate`, `train`, `evaluate`, `report`, `plan`, `sweep`, `fit` and `laws`."""
