"""The report as a page: `report` writes it, `data` collects what it shows."""
