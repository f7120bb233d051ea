"""What the harness's speed is measured against; nothing here is needed to run a study, and nothing is a test with a clock."""
