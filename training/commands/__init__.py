"""The commands `prepare`, `schema`, `validate`, `train`, `evaluate` and `report`."""
