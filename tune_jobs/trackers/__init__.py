"""Shows a search in TensorBoard, MLflow and Weights & Biases: from its ledger, while it runs or afterwards."""
