"""Parquet files of any tool, read as tables of plain columns, and the rows of them that are left out."""
