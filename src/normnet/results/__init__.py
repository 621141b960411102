"""The folder of results per scan: its files, its schema, its picture."""
