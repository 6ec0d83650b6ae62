"""Worked examples of every verb: what ``--help`` ends with and docs/verbs shows. Every line is parsed by a test."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {  # verb -> (arguments, what they do)
    "infer": (
        ("left.png right.png -o out", "disparity, occlusion and confidence of one pair"),
        ("left.png right.png --calib calib.txt --html -o out", "also depth in metres, a point cloud, and a page to look at"),
        ("clip.mp4 --layout sbs --range 0 64 -o out", "a video of both views side by side becomes a video of disparities"),
    ),
    "rectify": (
        ("left_raw.png right_raw.png --calib rig.yml -o straight", "then: infer straight/left.png straight/right.png "
         "--calib straight/calib.txt"),
    ),
    "depth": (
        ("disparity.pfm left.png --calib calib.txt -o out", "metres and a cloud from disparities that are there already"),
        ("sgbm.npy left.png --scale 0.0625 --fx 700 --baseline 0.12", "integers of OpenCV's SGBM, calibration by hand"),
    ),
    "check": (
        ("left.png right.png", "swapped? shifted? not rectified? and what to do about it"),
        ("kitti2015:KITTI", "the data set in the folder KITTI: what is missing, damaged, of the wrong sign or scale"),
    ),
    "demo": (("", "needs nothing but the program; open demo/demo.html afterwards"),),
    "explain": (("left.png right.png --at 370 248 -o out", "why has the pixel in column 370, row 248 its disparity?"),),
    "train": (
        ("experiments/smoke.toml", "two minutes: does training work here?"),
        ("experiments/small.toml --set train.steps=20000 --resume", "the real one, longer; goes on where it was stopped"),
    ),
    "evaluate": (
        ("--data generated:7:50 --baseline sgbm", "50 generated pairs, OpenCV's SGBM beside the network"),
        ("--data pairs:FOLDER -o results --html results/page.html", "your own pairs: FOLDER/<set>/<scene>/{left.png,right.png,"
         "disp_left.pfm}"),
        ("--gt kitti2015:KITTI --pred DIR --protocol kitti", "score anybody's disparity files, without a network"),
    ),
    "compare": (("ours/small.card.json theirs/other.card.json", "two results of 'evaluate -o' on the same images"),),
    "submit": (("kitti2015 KITTI -o upload --method mine", "predict all test images and pack the archive to upload"),),
    "report": (("runs/small", "writes runs/small/report.html; the run may still be going on"),),
    "generate": (("-o scenes --scenes 100 --seed 7", "a hundred pairs with exact truth in the folder scenes"),),
    "preview": (
        ("generated:7", "writes preview.png: what the generator draws for seed 7"),
        ("pairs:FOLDER -n 4 -o sheet.png", "four of your own pairs"),
    ),
    "convert": (("sttr_light.pth.tar -o weights/sttr-light.safetensors", "then: infer --weights, the file that it names"),),
    "bench": (
        ("--no-time", "count parameters and multiply-adds; seconds, not minutes"),
        ("--presets small --operators --sizes 540x960 1080x1920 --widths", "time and memory of one network at two sizes"),
    ),
    "export": (("-o stereo.onnx", "write the shipped network as ONNX and compare both on a generated pair"),),
    "selftest": (("", "is every fast path of this machine right?"),),
}


def epilog(called: str, verb: str) -> str:
    """What ``--help`` of a verb ends with: every example below a line that says what it does. called: how the program is."""
    pairs = [(f"  # {text}", f"  {called} {verb} {arguments}".rstrip()) for arguments, text in EXAMPLES.get(verb, ())]
    return "\n".join(["examples:", *(line for pair in pairs for line in pair)]) if pairs else ""
