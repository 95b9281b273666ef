"""From a saved model to a public one."""
