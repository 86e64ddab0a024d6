"""N:M patterns and importance scores: pure numpy, no graph."""
