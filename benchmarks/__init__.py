"""The benchmark of sb3_gipo: suites of runs, resumable records, and rankings with intervals."""
