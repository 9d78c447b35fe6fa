"""The fit: windows of sessions as arrays, two linear models, intervals, doubts."""
