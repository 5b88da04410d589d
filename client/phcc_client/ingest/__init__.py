"""From what a hospital has (a PACS export, NIfTI files, a table of patients) to a folder to train on."""
