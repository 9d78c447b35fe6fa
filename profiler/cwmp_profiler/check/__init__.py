"""Is a session trustworthy: each doubt as a finding with its cure, and one verdict."""
