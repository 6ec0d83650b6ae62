"""Calibration files as the makers of cameras and programs write them: their layouts, with numbers to compute with by hand."""

from __future__ import annotations

import json

# fx 720 px, cx 610 px; camera 2 stands 0.06 m to the left of camera 0, camera 3 0.48 m to the right of it: P[0,3] / fx.
KITTI_RECT = """\
P_rect_00: 7.200000e+02 0.000000e+00 6.100000e+02 0.000000e+00 0.000000e+00 7.200000e+02 1.730000e+02 0.000000e+00 0 0 1 0
P_rect_01: 7.200000e+02 0.000000e+00 6.100000e+02 -3.888000e+02 0.000000e+00 7.200000e+02 1.730000e+02 0.000000e+00 0 0 1 0
P_rect_02: 7.200000e+02 0.000000e+00 6.100000e+02 4.320000e+01 0.000000e+00 7.200000e+02 1.730000e+02 2.16e-01 0 0 1 2.7e-03
P_rect_03: 7.200000e+02 0.000000e+00 6.100000e+02 -3.456000e+02 0.000000e+00 7.200000e+02 1.730000e+02 2.20e+00 0 0 1 2.7e-03
"""
KITTI_SHORT = KITTI_RECT.replace("_rect_0", "")  # stereo 2012, object detection, odometry

# Cameras before rectification: 2 is turned by +90 degrees about z against camera 0, 3 is not. T is -R times the camera's place.
KITTI_RAW = (
    "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.950000e-02\n"
    + "".join(
        f"S_0{i}: 1.392000e+03 5.120000e+02\nK_0{i}: 9.{i}e+02 0 6.9e+02 0 9.{i}e+02 2.3e+02 0 0 1\n"
        f"D_0{i}: -3.7e-01 2.0e-01 1.0e-03 2.0e-03 -7.0e-02\nR_0{i}: {turn}\nT_0{i}: {shift}\n"
        f"S_rect_0{i}: 1.242000e+03 3.750000e+02\nR_rect_0{i}: 1 0 0 0 1 0 0 0 1\n"
        for i, turn, shift in ((2, "0 -1 0 1 0 0 0 0 1", "0 0.06 0"), (3, "1 0 0 0 1 0 0 0 1", "-0.48 0 0"))
    )
    + KITTI_RECT
)

ZED = """\
[LEFT_CAM_2K]
fx=1400.5
fy=1401.5
cx=1103.25
cy=620.75
k1=-0.17
k2=0.028
k3=0.001
p1=0.0003
p2=-0.0005

[RIGHT_CAM_2K]
fx=1402.5
fy=1403.5
cx=1110
cy=625
k1=-0.16
k2=0.027
p1=-0.0001
p2=-0.0008

[LEFT_CAM_HD]
fx=700.25
fy=700.75
cx=640.5
cy=360.5
k1=-0.17
k2=0.028

[RIGHT_CAM_HD]
fx=701.25
fy=701.75
cx=642
cy=362
k1=-0.16
k2=0.027

[STEREO]
Baseline=120.009
TY=0.5
TZ=-0.25
CV_2K=0.0123
CV_HD=0
RX_2K=0.0017
RX_HD=0
RZ_2K=-0.0004
RZ_HD=1.5707963267948966
"""

# What `rs-enumerate-devices -c` prints of a D400 camera, shortened; tabs and spaces as it has them.
_LISTED = """\
Intrinsic of "Infrared {n}" / {w}x{h} / {{Y8}}
  Width:      \t{w}
  Height:     \t{h}
  PPX:        \t{cx}
  PPY:        \t{cy}
  Fx:         \t{f}
  Fy:         \t{f}
  Distortion: \tBrown Conrady
  Coeffs:     \t0  \t0  \t0  \t0  \t0  
  FOV (deg):  \t90.28 x 59.06

"""  # noqa: W291
REALSENSE = (
    "Device info: \n    Name                          : \tIntel RealSense D435\n\n"
    'Intrinsic of "Depth" / 848x480 / {Z16}\n  Width:      \t848\n  Height:     \t480\n\n'
    + "".join(_LISTED.format(n=n, w=848, h=480, cx=423.5, cy=239.25, f=421.75) for n in (1, 2))
    + "".join(_LISTED.format(n=n, w=640, h=480, cx=319.5, cy=239.25, f=380.5) for n in (1, 2))
    + 'Extrinsic from "Depth"\t  To\t  "Infrared 2" :\n Rotation Matrix:\n   9 9 9\n 9 9 9\n 9 9 9\n\n'
    " Translation Vector: 9  9  9  \n\n"
    'Extrinsic from "Infrared 1"\t  To\t  "Infrared 2" :\n Rotation Matrix:\n'
    "   1                0                0            \n   0                1                0            \n"
    "   0                0                1            \n\n Translation Vector: -0.0499585770070553  0  0  \n\n"
)

_CAMERA: dict = {
    "width": 1280,
    "height": 800,
    "fx": 640.5,
    "fy": 641.5,
    "ppx": 638.0,
    "ppy": 401.0,
    "model": "distortion.brown_conrady",
}
REALSENSE_JSON = json.dumps(
    {
        "left": _CAMERA | {"coeffs": [-0.05, 0.06, 0.001, 0.002, -0.02]},
        "right": _CAMERA | {"ppx": 641.0, "coeffs": [-0.06, 0.07, 0.001, 0.002, -0.03]},
        # by columns: x goes to y, y to -x
        "extrinsics": {"rotation": [0, 1, 0, -1, 0, 0, 0, 0, 1], "translation": [-0.05, 0.001, 0.002]},
    }
)


def ros(name: str, shift: float) -> str:
    """camera_info as camera_calibration writes it; of the right camera ``shift`` is -fx times the baseline."""
    turn = (
        "[1.0, 0.0, 0.0,\n         0.0, 0.0, -1.0,\n         0.0, 1.0, 0.0]"
        if name == "right"
        else "[1, 0, 0, 0, 1, 0, 0, 0, 1]"
    )
    return f"""\
# calibrated on a Tuesday
image_width: 640
image_height: 480
camera_name: narrow_stereo/{name}
camera_matrix:
  rows: 3
  cols: 3
  data: [430.25, 0.0, 310.5, 0.0, 431.25, 230.5, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.36, 0.12, 0.001, 0.002, 0.0]
rectification_matrix:
  rows: 3
  cols: 3
  data: {turn}
projection_matrix:
  rows: 3
  cols: 4
  data: [400.0, 0.0, 320.5, {shift}, 0.0, 400.0, 240.5, 0.0,
         0.0, 0.0, 1.0, 0.0]
"""


def ros_echo(shift: float) -> str:
    """What `ros2 topic echo` prints of one message."""
    p = "\n".join(f"- {value}" for value in (400.0, 0.0, 320.5, shift, 0.0, 400.0, 240.5, 0.0, 0.0, 0.0, 1.0, 0.0))
    return f"""\
header:
  stamp:
    sec: 1700000000
    nanosec: 5
  frame_id: camera
height: 480
width: 640
distortion_model: plumb_bob
d:
- -0.36
- 0.12
- 0.001
- 0.002
- 0.0
k: [430.25, 0.0, 310.5, 0.0, 431.25, 230.5, 0.0, 0.0, 1.0]
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p:
{p}
binning_x: 0
roi:
  width: 0
  height: 0
---
"""


FOUNDATION_STEREO = "754.6680908203125 0.0 489.3794860839844 0.0 754.6680908203125 265.16162109375 0.0 0.0 1.0\n0.063\n"
MIDDLEBURY = "cam0=[999.421 0 294.182; 0 999.421 252.932; 0 0 1]\ndoffs=32.778\nbaseline=193.001\nwidth=741\nheight=497\n"
