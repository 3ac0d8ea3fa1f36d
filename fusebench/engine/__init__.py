"""The engine: plans tasks, runs them in workers that may die, resumes, and records what produced the rows."""
