"""The prompts of the workflows: long and concrete, as Wan2.1 was trained on."""

SURFER = (
    "A wide cinematic shot of a lone surfer gliding along the face of a tall turquoise wave at golden hour. Spray "
    "catches the low sun, the board leaves a clean white line in the water, and the camera tracks smoothly beside her "
    "as she leans into a long turn. Natural light, fine water detail, shallow depth of field."
)
LIGHTHOUSE = (
    "An aerial view circling slowly around an old white lighthouse on a rocky headland. Waves break in long foam "
    "lines against the dark cliffs, gulls drift across the frame, and soft evening light moves over the grass. "
    "Photorealistic, crisp detail, steady camera."
)
PANDA = (
    "A close-up of a young red panda sitting on a mossy branch in a misty bamboo forest. It lifts its head, sniffs the "
    "air and nibbles a green leaf held in its paws, its whiskers trembling. Soft diffused morning light, shallow depth "
    "of field, gentle handheld camera."
)
CITY = (
    "A night street in the rain after closing time. Neon signs shimmer in the puddles, a cyclist in a yellow raincoat "
    "rides towards the camera between parked scooters, steam rises from a noodle stand on the left. Cinematic, rich "
    "contrast, slow push-in."
)
IMAGE_MOTION = (
    "The scene of the picture comes to life. A light breeze moves through it, small details sway, the light shifts "
    "gently, and the camera drifts slowly forward. Natural, continuous motion."
)
FOX = "a red fox with a white-tipped tail and amber eyes"
A_FOX = FOX.capitalize()
_SCENES = {
    "0:00": f"A wide shot of {FOX} standing at the edge of a snowy pine forest at dawn. Its breath steams in the cold "
    "air, its ears turn, and it looks over the white valley. Soft blue light, realistic fur detail, steady camera.",
    "0:15": f"The camera follows {FOX} as it trots downhill through deep snow between the pine trees. Snow dust flies "
    "up from its paws and sun rays break through the branches. Realistic, smooth tracking shot.",
    "0:30": f"{A_FOX} reaches a half-frozen stream, stops at the bank and leans down to drink. Ripples run across the "
    "dark water, ice glitters at the edge. Close shot, warm morning light, shallow depth of field.",
    "0:45": f"{A_FOX} curls up under the roots of a fallen pine, wraps its tail around itself and slowly closes its "
    "eyes while large snowflakes begin to fall. Close shot, quiet, soft light.",
}
STORY = "\n".join(f"{start} | {scene}" for start, scene in _SCENES.items())
HIKER = "a young woman with short red hair, a long green coat and a yellow scarf"
A_HIKER = HIKER.capitalize()
_RETURN = {
    "0:00": f"A wide shot of {HIKER} walking along an empty beach at sunrise. Small waves run up the sand beside "
    "her, the light is low and golden, and the camera tracks slowly beside her. Realistic, natural "
    "colours.",
    "0:15": f"{A_HIKER} stops on the beach, bends down and picks up a white shell. She turns it in her fingers and"
    " holds it to the sun. Close shot, soft morning light, shallow depth of field.",
    "0:30": f"{A_HIKER} walks away along the beach and leaves the picture to the right. Only her footprints stay "
    "in the wet sand, and small waves run over them. Wide shot, steady camera.",
    "0:45": "The same beach without any people. The tide comes in, foam runs up the sand, and three gulls land at"
    " the edge of the water. Wide shot, bright noon light, steady camera.",
    "1:00": "A storm over the same empty beach. Dark clouds race over the sea, tall waves break on the sand, and "
    "rain falls in grey curtains. Wide shot, dramatic light.",
    "1:15": "The rain has stopped over the same empty beach. A rainbow stands above the calm sea, the wet sand "
    "mirrors the sky, and a small crab walks across it. Low wide shot.",
    "1:30": f"{A_HIKER} comes back along the same beach from the right, her coat moving in the wind. She looks at "
    "the sea and smiles. Medium shot, warm evening light, smooth tracking shot.",
    "1:45": f"{A_HIKER} sits down on the sand, takes the white shell out of her pocket and lays it before her, "
    "while the sun sets over the sea. Close shot, warm light, shallow depth of field.",
}
RETURN = "\n".join(f"{start} | {scene}" for start, scene in _RETURN.items())
# They never meet: a shape that passes behind another is what the demo model does worst.
DEMO_PROMPT = "a red circle at the top left moving sideways and a blue square at the bottom right moving sideways"
# Each lit part is of two chunks, which the demo model needs to follow a change; two dark ones are beyond a window of 6.
RECOLOURED = "\n".join(
    (
        "0:00 | a cyan circle at the top left moving sideways and a red square at the bottom right moving sideways",
        "0:01.5 | a green circle and a magenta square",
        "0:03 | lights off",
        "0:04.5 | lights on",
    )
)
