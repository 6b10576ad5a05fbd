"""How the page of a run looks: by day, by night, on paper, on a narrow screen. Letters are the reader's own.

Every colour is a variable, with a value for day and one for night, and ``tests/simnet/test_page_style.py`` measures them:
letters have the contrast of 4.5 that WCAG 2.1 asks for (1.4.3), lines and areas that of 3 (1.4.11), and any two of ``c1`` to
``c7`` are still two colours to the colour-blind. They began as Okabe's and Ito's (Color Universal Design, 2008) and moved
until that was so.
"""

from __future__ import annotations

import re
from typing import Final

from simnet.charts import COLUMNS

DAY: Final = {
    "page": "#ffffff",
    "wash": "#f5f6f8",
    "ink": "#1c2128",
    "soft": "#586069",
    "rule": "#dfe3e8",
    "land": "#d3d9df",
    "good": "#146c43",
    "bad": "#b42318",
    "bad-wash": "#fdf1ef",
    "warn": "#8a5a00",
    "band": "#d55e00",
    "c1": "#005fb8",
    "c2": "#c08a00",
    "c3": "#178a60",
    "c4": "#d05aa6",
    "c5": "#2a9ae2",
    "c6": "#b8400f",
    "c7": "#5f666d",
    "other-1": "#c3cad2",
    "other-2": "#a3acb6",
}
NIGHT: Final = {
    "page": "#0f1318",
    "wash": "#181d24",
    "ink": "#e6e9ee",
    "soft": "#9ba5b1",
    "rule": "#2a313a",
    "land": "#2f3741",
    "good": "#56c48d",
    "bad": "#ff8b7b",
    "bad-wash": "#2a1614",
    "warn": "#e0ad4f",
    "band": "#ff9a5c",
    "c1": "#2f83dc",
    "c2": "#f0c04a",
    "c3": "#8fe6c4",
    "c4": "#cf4a97",
    "c5": "#74c3f7",
    "c6": "#e06a30",
    "c7": "#a9b0b8",
    "other-1": "#3d4651",
    "other-2": "#59636f",
}
COLOURS: Final = 7  # c1 to c7; the last is grey, for the rest


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_RULES: Final = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
  font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:36px 24px 56px}
h1,h2,h3,p,figure,dl,dd,ol,pre{margin:0;padding:0}
h1{font-size:34px;line-height:1.15;letter-spacing:-.02em;font-weight:650}
h2{font-size:20px;line-height:1.3;letter-spacing:-.01em;font-weight:650;margin-top:52px;padding-top:18px;
  border-top:2px solid var(--ink)}
h3{font-size:14px;line-height:1.4;font-weight:650}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",monospace;
  font-size:13px}
.soft{color:var(--soft)}
.small{font-size:13px}
.set-up{margin-top:8px}
.kicker{color:var(--soft);font-size:13px;margin-bottom:6px}
.verdict{display:flex;flex-wrap:wrap;align-items:center;gap:8px 16px}
.stamp{font-size:15px;font-weight:650;line-height:1;padding:8px 12px;border-radius:6px;border:2px solid currentColor}
.good{color:var(--good)}
.bad{color:var(--bad)}
.warn{color:var(--warn)}
.sentence{font-size:18px;line-height:1.5;margin-top:14px;max-width:46em;overflow-wrap:anywhere}
.broken{margin-top:22px;padding:14px 18px;background:var(--bad-wash);border-left:4px solid var(--bad);
  overflow-wrap:anywhere}
.broken li{margin-top:10px}
.broken ul,.broken ol{margin:0;padding:0;list-style:none}
.repeat{margin-top:22px;color:var(--soft);font-size:13px}
.repeat pre{margin-top:4px;padding:10px 14px;background:var(--wash);color:var(--ink);border-radius:6px;
  white-space:pre-wrap;overflow-wrap:anywhere;-webkit-user-select:all;user-select:all}
.numbers{display:grid;grid-template-columns:repeat(4,1fr);gap:26px 24px;margin-top:34px}
.numbers div{border-top:1px solid var(--rule);padding-top:10px;display:flex;flex-direction:column}
.numbers dt{color:var(--soft);font-size:13px}
.numbers dd{font-size:25px;line-height:1.25;font-weight:600;letter-spacing:-.01em;white-space:nowrap}
.numbers dd.more{font-size:13px;line-height:1.45;font-weight:400;letter-spacing:0;color:var(--soft);
  white-space:normal}
.lead{margin-top:6px;max-width:52em;color:var(--soft)}
figure{margin-top:30px;break-inside:avoid}
figcaption p{color:var(--soft);font-size:13px}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;margin-top:4px;font-size:13px;list-style:none;padding:0}
.legend li{display:flex;align-items:center;gap:7px;overflow-wrap:anywhere}
.legend svg{flex:none}
.times{overflow-x:clip}
.times svg.plot{display:block;overflow:visible;margin-top:10px}
.times figure>svg.plot{width:calc(100% - 76px);margin-left:72px}
.times svg.plot svg{overflow:hidden}
.map{position:relative;margin-top:18px}
.map svg.world{display:block;width:100%;height:auto;aspect-ratio:var(--aspect);overflow:hidden}
text{font:inherit;fill:var(--ink)}
text.tick{font-size:11.5px;fill:var(--soft)}
text.row{font-size:10.5px}
text.what{font-size:12.5px}
text.number{font-size:11px;font-weight:650;fill:var(--page)}
text.place{font-size:13px;font-weight:650;paint-order:stroke;stroke:var(--page);stroke-width:5px;
  stroke-linejoin:round}
.narrow text.place,text.narrow{display:none}
text.place tspan{font-weight:400;fill:var(--soft)}
.grid{stroke:var(--rule);stroke-width:1;shape-rendering:crispEdges}
.band{fill:var(--band);fill-opacity:.13}
.bar{fill:var(--band)}
.moment{stroke:var(--band);stroke-width:1;stroke-dasharray:2 3;stroke-opacity:.75}
.mark{fill:var(--band)}
.land{fill:none;stroke:var(--land);stroke-width:6.6;stroke-linecap:round}
.arc{fill:none;stroke:var(--c1);stroke-opacity:.62;stroke-linecap:round}
.region{fill:var(--c1);stroke:var(--page);stroke-width:2}
.region.hit{fill:var(--page);stroke:var(--c6);stroke-width:7}
.line{fill:none;stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round;vector-effect:non-scaling-stroke}
.line.thick{stroke-width:2.5}
.line.thin{stroke-width:1.25}
.line.dashed{stroke-dasharray:7 4}
.line.dotted{stroke-dasharray:1.5 4.5}
.area.pale{fill-opacity:.22}
.edge{stroke:var(--ink);stroke-width:1;stroke-dasharray:2 3}
.columns rect{fill:var(--ink);fill-opacity:var(--lit,0);pointer-events:all}
.columns.still rect{pointer-events:none}
.columns .early text{transform:translate(5px,var(--y))}
.columns .late text{transform:translate(-5px,var(--y));text-anchor:end}
.columns text{font-size:12px;font-weight:600;visibility:var(--told,hidden);pointer-events:none;paint-order:stroke;
  stroke:var(--page);stroke-width:4px;stroke-linejoin:round}
.piece{stroke:none}
.scroll{overflow-x:auto;margin-top:14px}
table{border-collapse:collapse;font-size:13.5px;line-height:1.4}
table.wide{width:100%}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:6px}
th,td{padding:6px 14px 6px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
thead th{color:var(--soft);font-weight:400;border-bottom-color:var(--soft);vertical-align:bottom}
tbody th{font-weight:600;white-space:nowrap}
th.n,td.n{text-align:right;white-space:nowrap}
thead th.n{white-space:normal}
td.cell{padding:6px 10px}
td.says,.seen{overflow-wrap:anywhere}
.seen{margin:4px 0 2px;padding:0;list-style:none;color:var(--bad);font-size:13px}
.happened{columns:2;column-gap:36px;margin:12px 0 0;padding:0;list-style:none;font-size:13px}
.happened li{break-inside:avoid;padding-left:64px;text-indent:-64px;overflow-wrap:anywhere}
.happened time{display:inline-block;width:64px;text-indent:0;color:var(--soft)}
.happened b{color:var(--band)}
details{margin-top:18px}
summary{cursor:pointer;color:var(--soft);font-size:13px}
footer{margin-top:52px;padding-top:14px;border-top:1px solid var(--rule);color:var(--soft);font-size:13px;
  overflow-wrap:anywhere}
@media (max-width:640px){
main{padding:24px 16px 40px}
h1{font-size:28px}
.sentence{font-size:16px}
.numbers{grid-template-columns:1fr 1fr;gap:20px 18px}
.numbers dd{font-size:18px}
.times figure>svg.plot{width:calc(100% - 62px);margin-left:60px}
.happened{columns:1}
text.odd,text.wide,.wide text.place,text.place tspan{display:none}
.narrow text.place,text.narrow{display:inline}
text.what{font-size:12px}
text.place{font-size:11px}
text.row{font-size:9.5px}
text.tick{font-size:11px}
}
@media print{
body{font-size:11pt}
main{max-width:none;padding:0}
.numbers dd{font-size:19px}
.scroll{overflow:visible}
table{font-size:9.5pt}
th,td,td.cell{padding:3pt 6pt 3pt 0}
.area,.band,.piece,.bar,td.cell{-webkit-print-color-adjust:exact;print-color-adjust:exact}
h2{break-after:avoid}
}
"""


def style() -> str:
    """The whole style sheet."""
    names = [name for name in DAY if re.fullmatch(r"c\d|other-\d", name)]
    classes = "".join(f".{name}{{--c:var(--{name})}}" for name in names)
    # A pointer over a column of time in one plot: that column in all plots.
    columns = "".join(f".times:has(.k{index}:hover) .k{index}{{--lit:.13;--told:visible}}" for index in range(COLUMNS))
    uses = ".line{stroke:var(--c)}.area,.piece,.dot,.swatch{fill:var(--c)}"
    return (
        f":root{{color-scheme:light dark;{_variables(DAY)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(NIGHT)}}}}}"
        f"{_RULES}{classes}{uses}{columns}"
    )
