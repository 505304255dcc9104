"""Many runs: one after the other or in parallel, within a time, and compared; one run is not trained here."""
