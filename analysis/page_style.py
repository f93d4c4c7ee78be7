"""How a report's page looks: one stylesheet, no font and no picture from elsewhere."""

from __future__ import annotations

from pbkv.analysis.html import Html

CSS = Html("""
:root { --ink: #222; --faint: #667; --line: #e3e3e6; --ground: #fff; --wash: #f6f6f8; }
* { box-sizing: border-box; }
html { background: var(--wash); }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 2.5rem 4rem; background: var(--ground);
  color: var(--ink);
  font: 16px/1.55 "Segoe UI", "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif;
  min-height: 100vh; }
.kicker { color: var(--faint); font-size: .85rem; letter-spacing: .04em; margin: 0; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .2rem 0 1.4rem; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .3rem; font-weight: 650; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .35rem 0 .9rem; max-width: 46rem; }
.note { color: var(--faint); font-size: .87rem; }
section.world + section.world { border-top: 3px solid var(--ink); margin-top: 4rem; padding-top: 2rem; }
.verdict { border-left: 7px solid var(--mark); background: var(--wash);
  padding: 1.1rem 1.5rem; border-radius: 3px; }
.verdict strong { display: block; font-size: 1.45rem; font-weight: 650; color: var(--mark);
  margin-bottom: .25rem; }
.verdict p { margin: .2rem 0 0; font-size: 1.05rem; }
.policy-bound { --mark: #00609f; }
.capacity-bound { --mark: #a83c28; }
.no-pressure { --mark: #4b5563; }
.undecided { --mark: #8a6100; }
.word { color: var(--mark); font-weight: 600; white-space: nowrap; }
dl.facts { display: flex; flex-wrap: wrap; gap: .9rem 2.6rem; margin: 1.3rem 0 0; }
dl.facts dt { color: var(--faint); font-size: .8rem; }
dl.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; margin: .8rem 0 .3rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.wide > table { min-width: 100%; }
th { text-align: right; font-weight: 600; color: var(--faint); font-size: .8rem; vertical-align: bottom;
  padding: .25rem .55rem; border-bottom: 1.5px solid var(--ink); line-height: 1.25; }
td { text-align: right; padding: .34rem .55rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.left, td.left { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
tr.best td { font-weight: 650; }
tr.bound td { color: var(--faint); font-style: italic; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
figure { margin: 1.2rem 0 .6rem; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--faint); font-size: .87rem; max-width: 46rem; margin-top: .3rem; }
details { border-top: 1px solid var(--line); }
details + details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
details.inline { border: 0; margin-top: .3rem; }
summary { cursor: pointer; padding: .75rem 0; font-weight: 600; }
details.inline > summary { padding: .2rem 0; font-weight: 400; color: var(--faint); font-size: .9rem; }
summary small { color: var(--faint); font-weight: 400; font-size: .87rem; margin-left: .7rem; }
.folded { margin-top: 2.6rem; }
dl.listed { columns: 3 15rem; column-gap: 2rem; font-size: .82rem; margin: .4rem 0 1rem; }
dl.listed div { break-inside: avoid; padding: .12rem 0; border-bottom: 1px solid var(--line); display: flex;
  justify-content: space-between; gap: 1rem; }
dl.listed dt { color: var(--faint); }
dl.listed dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
nav ul { padding-left: 1.2rem; }
@media (max-width: 48rem) { body { padding: 1.2rem; } h1 { font-size: 1.5rem; } }
@media print { html, body { background: #fff; } details > * { display: block; } }
""")
