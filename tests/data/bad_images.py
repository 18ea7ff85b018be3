"""What the fixture `bad_folder` holds that cannot be used, and why."""

BAD = {
    "a/truncated.jpg": "truncated",
    "b/empty.jpg": "empty file",
    "d/dot.jpg": "1 x 1 px: shows nothing (the least is 8)",
    "d/page.jpg": "not an image",
}
