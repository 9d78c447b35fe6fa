"""Many runs, and the frontier of accuracy against joules."""
