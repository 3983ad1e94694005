"""Smoke test of a release at API_URL: the trending list has videos with titles. Exit code 0: it does."""

import json
import os
import sys
import urllib.request

if __name__ == "__main__":
    with urllib.request.urlopen(os.environ["API_URL"] + "/api/videos/trending", timeout=5) as answer:  # noqa: S310 - the address of our own release
        videos = json.load(answer)["videos"]
    if not videos or not all(video["title"] for video in videos):
        sys.exit("the trending list is empty")
    print(f"{len(videos)} videos are trending")
