"""A study's results for people and for programs: ``summary.json``, ``report.html`` and a table."""
