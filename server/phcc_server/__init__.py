"""The coordinator: rounds, aggregation, what is believed and what is kept, the report."""
