"""What is answered: rules, scores, diversity, promotions, pages, explanations. Runs on the engine's thread."""
