"""What the templates are called: key -> name of the files.

The template browser knows nothing of a pack's template but its file name, and shows it as title and as description. So
a name says what one gets, in the 35 letters for which there is room, and begins with its place in the list, which
web/templates.js sorts. "-" and "_" would become spaces.
"""

TITLES = {
    "demo": "1 Demo clip, nothing to download",
    "image_start": "2 Image to video, 5 seconds at 480P",
    "interactive_story_60s": "3 Story of four prompts, 1 minute",
    "long_1080p": "4 Long clip, 30 seconds at 1080P",
    "dense_vs_dummy_forcing_480p": "5 Dummy Forcing beside dense",
    "profile_heads_and_save": "6 Head profile, scored and kept",
    "teacache_on_top": "7 TeaCache on top, fewer steps",
    "long_memory_demo": "8 Long memory, colours come back",
    "returning_character_120s": "9 Two minutes, a character returns",
}
