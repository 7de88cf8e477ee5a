"""Operations of the model: each file has one operation, its reference in torch and its implementation in Triton."""
