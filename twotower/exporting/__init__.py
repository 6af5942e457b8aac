"""From a trained run to a bundle that serving answers from."""
