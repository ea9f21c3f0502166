"""What the templates are called: key -> name of the files.

The template browser knows nothing of a pack's template but its file name, and shows that as title and as description.
So the names say what one gets, begin with their place in the list, and have no "-" and "_", which it turns to spaces.
"""

TITLES = {
    "demo": "1 Demo, a clip with nothing to download",
    "image_start": "2 Image to video, 5 seconds at 480P",
    "interactive_story_60s": "3 Story of four prompts, a minute at 480P",
    "long_1080p": "4 Long clip, 30 seconds at 1080P",
    "dense_vs_dummy_forcing_480p": "5 Dense and Dummy Forcing side by side",
    "profile_heads_and_save": "6 Head profile, scored once and kept",
    "teacache_on_top": "7 TeaCache on top of Dummy Forcing, 480P",
}
