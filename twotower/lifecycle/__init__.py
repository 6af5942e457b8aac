"""What happens to a model after its first export: promotion, drift, experiments, erasure."""
