"""Coming from the predecessor: its tables, read as they are, become a history that this runtime could have written.

`source` reads them, `plan` decides what becomes of one task, `moving` does it all, `report` says what happened.
"""
