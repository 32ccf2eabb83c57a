"""What a run consists of, before anything is computed."""
