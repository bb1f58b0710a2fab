"""The look of the HTML report: the colours of the product, light and dark, no file and no request.

Green is what was trained, frost what stayed frozen. Rows of tables become records on narrow screens.
"""

from __future__ import annotations

_LIGHT = """
--ground:#f2f5f6;--pane:#fff;--sunk:#f6f9f9;--line:#d8e1e4;--line-strong:#7d9097;--ink:#14211f;--ink-2:#46575a;
--ink-3:#5c6d71;--accent:#23755a;--accent-strong:#185843;--accent-soft:#e3f1ea;--accent-line:#a9d3c0;--on-accent:#fff;
--frost:#3e6a7f;--frost-line:#bdd1da;--soil:#87590d;--soil-soft:#fbf1dc;--soil-line:#e2c68b;--clay:#ab3a2a;
--c1:#23755a;--c2:#3f7fa3;--c3:#b0741a;--c4:#86568f;--grid:#e6ecee;--glare:#e4edf0;
"""
_DARK = """
--ground:#0e1416;--pane:#141c1f;--sunk:#10181a;--line:#263338;--line-strong:#63777e;--ink:#e5edec;--ink-2:#b0c0c2;
--ink-3:#8fa2a6;--accent:#62c69d;--accent-strong:#8bdab9;--accent-soft:#15302a;--accent-line:#2d5c4c;
--on-accent:#06231a;--frost:#8db7ca;--frost-line:#2f4a56;--soil:#dfb263;--soil-soft:#2b2313;--soil-line:#5d4a21;
--clay:#f0917f;--c1:#62c69d;--c2:#79b4d6;--c3:#dda652;--c4:#c195cb;--grid:#223035;--glare:#16232a;
"""
_PAGE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;padding:2rem 1.5rem 3rem;background:linear-gradient(178deg,var(--glare) 0,transparent 180px) no-repeat
var(--ground);color:var(--ink);font:.875rem/1.5 Inter,ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Liberation Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:82rem;margin:0 auto}
h1{margin:0;font-size:1.75rem;font-weight:620;line-height:1.15;letter-spacing:-.024em;overflow-wrap:anywhere}
h2{margin:0;font-size:.875rem;font-weight:640;line-height:1.4;letter-spacing:-.012em}
p,dl,dd,ul,ol,figure{margin:0;padding:0;list-style:none}
.lede{margin:.4rem 0 1.5rem;max-width:72ch;color:var(--ink-2);font-size:.9375rem;line-height:1.7}
.lede b{font-weight:560;color:var(--ink)}
.pane{margin-bottom:1.5rem;background:var(--pane);box-shadow:0 0 0 1px var(--line);min-width:0;break-inside:avoid}
.panes{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1px;margin-bottom:1.5rem}
.panes>.pane{margin:0}
.panes>.pane:last-child:nth-child(odd){grid-column:1/-1}
.ph{display:flex;flex-wrap:wrap;align-items:center;gap:.25rem .75rem;min-height:2.75rem;padding:.4rem 1rem;
border-bottom:1px solid var(--line)}
.pb{padding:1rem}
.pf{padding:.6rem 1rem;border-top:1px solid var(--line);font-size:.8125rem;color:var(--ink-2)}
.cap{color:var(--ink-3);font-size:.75rem}
.mono,pre{font-family:ui-monospace,"SF Mono",SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:.925em}
bdi{unicode-bidi:isolate}
"""
_FINDINGS = """
.top{display:grid;grid-template-columns:minmax(0,1.7fr) minmax(16rem,1fr);gap:1rem 2rem;align-items:start;padding:1rem}
.first{max-width:72ch;font-size:1.0625rem;line-height:1.6;letter-spacing:-.006em}
.first b{font-weight:640}
.more{columns:2;column-gap:2.5rem;padding:1rem 1rem .35rem;border-top:1px solid var(--line)}
.more li{break-inside:avoid;margin-bottom:.8rem;font-size:.8438rem;line-height:1.55;color:var(--ink-2);max-width:68ch}
.more b{display:block;font-weight:580;color:var(--ink)}
.tag{display:inline-block;padding:0 .45rem;border:1px solid var(--line);border-radius:3px;font-size:.75rem;
line-height:1.25rem;font-weight:450;color:var(--ink-2);background:var(--pane);white-space:nowrap;letter-spacing:0}
.tag-take{border-color:var(--accent-line);background:var(--accent-soft);color:var(--accent-strong)}
.tag-open{border-color:var(--soil-line);background:var(--soil-soft);color:var(--soil)}
.kv{display:grid;grid-template-columns:minmax(6rem,auto) minmax(0,1fr);gap:.3rem 1rem;font-size:.8125rem}
.kv dt{color:var(--ink-3)}.kv dd{overflow-wrap:anywhere}
.kv dd:first-of-type{font-weight:600}.plain-kv dd:first-of-type{font-weight:inherit}
"""
_TABLES = """
.scroll{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:.8125rem}
th{padding:.45rem .75rem;font-weight:500;font-size:.75rem;color:var(--ink-3);text-align:left;white-space:nowrap;
border-bottom:1px solid var(--line);background:var(--sunk)}
td{padding:.5rem .75rem;vertical-align:middle;border-bottom:1px solid var(--line)}
tr>:first-child{padding-left:1rem}tr>:last-child{padding-right:1rem}
tbody:last-child tr:last-child td{border-bottom:0}
tbody+tbody tr:first-child td{border-top:2px solid var(--line-strong)}
.r{text-align:right;white-space:nowrap}
.take td{background:var(--accent-soft)}
.tech{white-space:nowrap;font-weight:480}
.iv-text{white-space:nowrap}.iv-text b{font-weight:620}.iv-text span{color:var(--ink-3);font-size:.92em}
.no{color:var(--clay)}.ok{color:var(--accent)}.soft{color:var(--ink-3)}
details>summary{cursor:pointer;color:var(--accent);font-size:.8125rem}
details>summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.pane>details>summary{padding:.6rem 1rem;border-top:1px solid var(--line)}
.pane>.ph+details>summary{border-top:0}
.pane>details[open]>summary{border-bottom:1px solid var(--line)}
pre{margin:.4rem 0 0;padding:.6rem .75rem;background:var(--sunk);border:1px solid var(--line);border-radius:3px;
white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.45;color:var(--ink-2)}
.cells td{vertical-align:top}.cells td:last-child{min-width:18rem;max-width:34rem}
"""
_CHARTS = """
.whisker{display:block;width:100%;min-width:8.5rem;overflow:visible;color:var(--accent)}
.whisker.asked{color:var(--frost)}
.whisker .axis{stroke:var(--frost-line)}.whisker .iv{stroke:currentColor;stroke-width:1.5}
.whisker .pt{fill:currentColor}
.plot{display:grid;grid-template-columns:2.4rem minmax(0,1fr) 1.9rem;overflow:hidden}
.plot svg{display:block;width:100%;overflow:visible}
.plot .xs{grid-column:2}
.plot text{font-size:11px;fill:var(--ink-3)}
.ys text{text-anchor:end}.xs text{text-anchor:middle}.xs .first{text-anchor:start}.xs .last{text-anchor:end}
.grid{stroke:var(--grid)}
.front{stroke:var(--accent-line);stroke-width:2}
.on{color:var(--accent)}.off{color:var(--line-strong)}.asked{color:var(--frost)}
.area .iv{stroke:currentColor;stroke-width:1.25}.area .pt{fill:currentColor}
.badge circle{fill:var(--pane);stroke:currentColor;stroke-width:1.25}
.plot .badge text{font-size:10px;font-weight:600;text-anchor:middle;fill:var(--ink-2)}
.on .badge circle{fill:var(--accent)}.plot .on .badge text{fill:var(--on-accent)}
.curve{stroke:currentColor;stroke-width:1.75;fill:none}
.curve circle{fill:currentColor;stroke:none}.curve .iv{stroke-width:1;opacity:.45}.curve .lead{stroke-width:1}
.curve .badge circle{fill:var(--pane);stroke:currentColor}.curve .badge text{stroke:none}
.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}
.d1>line{stroke-dasharray:6 3}.d2>line{stroke-dasharray:2 3}.d3>line{stroke-dasharray:8 3 2 3}
.curve>.iv,.curve>.lead{stroke-dasharray:none}
.rule{stroke:var(--frost);stroke-dasharray:3 4}
.plot .ruled{fill:var(--frost);stroke:var(--pane);stroke-width:4px;paint-order:stroke}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .9rem;margin-top:.6rem;font-size:.75rem;color:var(--ink-2)}
.legend li{display:flex;align-items:center;gap:.4rem}.legend svg{width:1.5rem;height:8px}
.legend b{font-weight:600;color:var(--ink-3)}
"""
_NARROW = """
@media (max-width:960px){.panes,.top{grid-template-columns:minmax(0,1fr)}.more{columns:1}}
@media (max-width:640px){
body{padding:1.25rem 1rem 2rem}h1{font-size:1.5rem}
.cards thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.cards,.cards tbody,.cards tr{display:block}
.cards tr{padding:.75rem 1rem;border-bottom:1px solid var(--line)}
.cards tbody:last-child tr:last-child{border-bottom:0}
.cards tbody+tbody{border-top:2px solid var(--line-strong)}
.cards tbody+tbody tr:first-child td{border-top:0}
.cards td,.cells td:last-child{display:flex;justify-content:space-between;gap:1rem;padding:.15rem 0!important;border:0;
text-align:right;background:none!important;white-space:normal;max-width:none;min-width:0;overflow-wrap:anywhere}
.cards td::before{content:attr(data-th);color:var(--ink-3);text-align:left;flex:none}
.cards td:not([data-th]){display:block;text-align:left}.cards td:not([data-th])::before{content:none}
.cards .take{background:var(--accent-soft)}
.dense tr{position:relative;display:grid!important;grid-template-columns:1fr 1fr;column-gap:1.5rem}
.dense td:nth-child(2),.dense td:nth-child(3),.dense td:nth-child(4){grid-column:1/-1}
.dense td:nth-child(2){padding-right:2rem!important;font-weight:560}
.dense td:first-child{position:absolute;right:1rem;top:.75rem;color:var(--ink-3)}
.dense td:first-child::before{content:none}
.cards .whisker{width:9rem}
.kv{grid-template-columns:minmax(0,1fr)}.kv dd{margin-bottom:.4rem}
.top .kv{grid-template-columns:minmax(6rem,auto) minmax(0,1fr)}.top .kv dd{margin:0}
}
@media print{
:root{color-scheme:light}
body{background:#fff;padding:0;font-size:9pt}.scroll{overflow:visible}.panes{display:block}
.panes>.pane{margin-bottom:1rem}.pane{box-shadow:none;border:1px solid var(--line)}
details::details-content{content-visibility:visible;display:block;height:auto}
tr{break-inside:avoid}.long{break-inside:auto}
}
"""
STYLE = "".join((
    f":root{{color-scheme:light dark;{_LIGHT}}}", f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}",
    _PAGE, _FINDINGS, _TABLES, _CHARTS, _NARROW,
))  # fmt: skip
