"""Networks: the built-in ones, those from elsewhere, and what their parameter tensors are."""
