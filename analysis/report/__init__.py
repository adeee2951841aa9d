"""The report: one HTML file that says what the data can and cannot show."""
