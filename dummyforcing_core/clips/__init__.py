"""One clip on disk: a loaded model, prompts over time, the video, its report and pictures."""
