"""Answers to requests: rules, scores, diversity, promotions, pages, explanations. Runs on the engine's thread."""
