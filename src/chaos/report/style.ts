/**
 * The report's style sheet: one column, quiet rules, two colour schemes, paper.
 *
 * Used by report.ts. Colours are custom properties because the page's script reads them for the canvas. No fonts and no
 * images are loaded: system fonts only.
 */
import { KIND_LOOKS, kindColours } from "./kinds.ts";

const LIGHT = `--paper:#fffefa;--ink:#1d1c1a;--muted:#67635c;--faint:#b9b4aa;--rule:#e9e5db;--soft:#8d887e;\
--slowest:#ddd7ca;--most:#b8b0a0;--bad:#c4102e;--good:#14704f;--panel:#fffefaf2;\
${kindColours("light")};color-scheme:light`;
const DARK = `--paper:#151517;--ink:#e9e6df;--muted:#a19c92;--faint:#5a5751;--rule:#2b2a2b;--soft:#8b877f;\
--slowest:#3a393d;--most:#615f63;--bad:#ff6374;--good:#5fcf9f;--panel:#151517f2;\
${kindColours("dark")};color-scheme:dark`;

const TEXT = `
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%;background:var(--paper)}
body{margin:0 auto;max-width:68rem;padding:2.2rem max(1.1rem,env(safe-area-inset-left)) 3rem;color:var(--ink);
font:1.0625rem/1.5 "Iowan Old Style","Palatino Linotype",Palatino,Charter,"Bitstream Charter",Georgia,
"Liberation Serif",serif;
font-variant-numeric:oldstyle-nums proportional-nums}
header>p{max-width:none}
header>p:first-child{margin:0;color:var(--muted);font-style:italic}
h1{overflow-wrap:anywhere;margin:.15em 0 .4em;font-size:clamp(1.45rem,1rem + 2.2vw,2.3rem);line-height:1.18;
font-weight:400;text-wrap:balance}
h1 b{font-weight:600}
h1 b.good{color:var(--good)}
h1 b.bad,.bad{color:var(--bad)}
h2{margin:2.6rem 0 .3rem;font-size:1.2rem;font-weight:600}
p{margin:.3rem 0;max-width:42rem;overflow-wrap:anywhere}
.note{color:var(--muted);font-size:.94rem}
.problems{margin:1rem 0 0;padding:.1rem 0 .1rem 1rem;border-left:3px solid var(--bad)}
.problems h2{margin:.2rem 0 .3rem;color:var(--bad)}
.problems ul{margin:0;padding-left:1.1rem;max-width:52rem;overflow-wrap:anywhere}
code{font:.88em/1.5 ui-monospace,"SF Mono","DejaVu Sans Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
code.command span{white-space:nowrap}
code.command span.long{white-space:normal}
code.command{display:block;margin:.3rem 0;padding:.5rem .7rem;border:1px solid var(--rule);border-radius:3px;
user-select:all;-webkit-user-select:all}
footer{margin-top:3rem;padding-top:.6rem;border-top:1px solid var(--rule);color:var(--muted);font-size:.88rem}
a{color:inherit;text-decoration-color:var(--faint);text-underline-offset:.18em}
:focus-visible{outline:2px solid var(--worker);outline-offset:2px}
.defs{position:absolute}
.shape{width:1em;height:1em;vertical-align:-.13em;overflow:visible;fill:currentColor;stroke:currentColor;
stroke-width:1.4}
.open{fill:var(--paper)}
`;

const CHARTS = `
figure{position:relative;margin:1.6rem 0 0;scroll-margin-top:.5rem;touch-action:pan-y;
-webkit-tap-highlight-color:transparent}
figure[hidden]{display:none}
figcaption{display:flex;flex-wrap:wrap;align-items:baseline;margin:0 0 .35rem;font-size:.94rem;color:var(--muted)}
figcaption p{flex-basis:100%;max-width:none;margin:0}
figcaption h2{flex:1;margin:0;color:var(--ink)}
figcaption span{display:inline-block;margin-right:1.1rem}
.swatch{width:1.7em;height:.8em;margin-right:.35em;vertical-align:-.02em;overflow:visible;fill:none}
#whole[hidden]{display:none}
button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer;text-decoration:underline;
text-decoration-color:var(--faint);text-underline-offset:.18em}
.label{margin:.1rem 0 -.2rem;font-size:.88rem;color:var(--muted)}
.uplot{font-family:system-ui,sans-serif;font-variant-numeric:lining-nums tabular-nums;width:100%}
.u-select{background:color-mix(in srgb,var(--ink) 12%,transparent)}
.u-hz .u-cursor-x{border-right:1px solid var(--muted)}
#readout{font-size:.88rem;line-height:1.4;font-variant-numeric:lining-nums tabular-nums}
#readout p{margin:0;overflow-wrap:anywhere}
#readout .reads,#readout .cause,#readout .hint{color:var(--muted)}
#readout .what{font-weight:600}
@media (min-width:44rem){
#readout{position:absolute;z-index:200;top:9.4rem;width:21rem;padding:.5rem .7rem;background:var(--panel);
border:1px solid var(--rule);border-radius:3px;pointer-events:none}
#readout[data-side=left]{left:5rem}#readout[data-side=right]{right:1rem}
#readout[data-idle=yes]{display:none}
}
@media (max-width:43.99rem){#readout{min-height:6.6rem;padding-top:.4rem;border-top:1px solid var(--rule)}}
`;

const TABLES = `
table{border-collapse:collapse;font-variant-numeric:lining-nums tabular-nums;font-size:.97rem}
th{font-weight:400;color:var(--muted);text-align:right;vertical-align:bottom;font-size:.9rem;line-height:1.2}
th,td{padding:.22rem .8rem .22rem 0;white-space:nowrap}
td{text-align:right}
th:first-child,td:first-child{text-align:left}
thead th{border-bottom:1px solid var(--faint);padding-bottom:.3rem}
.kinds{width:100%;margin-top:.5rem}
.kinds td{border-bottom:1px solid var(--rule)}
.kinds .strip{width:58%;padding:0 0 0 .8rem}
.kinds thead .strip svg{height:1.1rem;margin-bottom:-.1rem}
.kinds td.nothing{color:var(--faint)}
.strip svg{display:block;width:100%;height:2.1rem;overflow:visible}
.strip line{stroke:var(--rule)}
.strip text{font-variant-numeric:lining-nums;fill:var(--muted);font:11px system-ui,sans-serif}
.strip use{fill:currentColor;stroke:currentColor;stroke-width:1.2;opacity:.8}
.strip use.open{fill:var(--paper)}
.strip use.bad{color:var(--bad);stroke-width:2.4;opacity:1}
.strip .usual{stroke:var(--muted);stroke-width:1.4;opacity:.55}
.strip .middle{stroke:var(--ink);stroke-width:2}
.strip .tail{stroke:var(--ink);stroke-width:1}
button.kind{text-decoration-color:var(--faint)}
button.kind[aria-pressed=true]{text-decoration-color:currentColor;text-decoration-thickness:2px;font-weight:600}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.2rem;margin:.4rem 0;max-width:52rem}
dt{color:var(--muted)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:lining-nums}
summary{cursor:pointer;color:var(--muted)}
.faults{width:100%;margin-top:.4rem;font-size:.9rem}
.faults th,.faults td{text-align:left;vertical-align:baseline;border-bottom:1px solid var(--rule)}
.faults td{white-space:normal;overflow-wrap:anywhere;min-width:3rem}
.faults .number{text-align:right;white-space:nowrap}
.faults .cause{color:var(--muted)}
@media (max-width:43.99rem){
body{padding-top:1.2rem}
.kinds,.kinds tbody,.kinds thead{display:block}
.kinds tr{display:grid;grid-template-columns:1.55fr repeat(3,.8fr) repeat(3,1fr);align-items:baseline}
.kinds td,.kinds thead th{border:0;padding:.2rem .1rem 0 0;font-size:.86rem}
.kinds thead th{font-size:.74rem;white-space:normal}
.kinds tr{border-bottom:1px solid var(--rule)}
.kinds .strip{grid-column:1/-1;width:auto;padding:0 .3rem}
.kinds tbody .strip svg{height:1.8rem}
dl{gap:.1rem .8rem;font-size:.95rem}
.reads{width:100%;font-size:.86rem}
.reads th{white-space:normal;font-size:.78rem}.reads th,.reads td{padding-right:.1rem;padding-left:.4rem}
.reads th:first-child,.reads td:first-child{padding-left:0}
.faults thead{display:none}.faults,.faults tbody{display:block}
.faults tr{display:flex;flex-wrap:wrap;gap:0 .9rem;position:relative;padding:.3rem 0 .3rem 4.4rem;
border-bottom:1px solid var(--rule)}
.faults tr[hidden]{display:none}
.faults td{border:0;padding:0;min-width:0}.faults td:first-child{position:absolute;left:0}
.faults td:nth-child(2),.faults td.cause{flex-basis:100%}
.faults td.number::before{content:attr(data-name) " ";color:var(--muted)}
}
`;

const PAPER = `
@page{margin:14mm}
@media print{
html:root{${LIGHT}}
body{max-width:none;padding:0;font-size:10pt}
#readout,#whole,summary{display:none!important}
figure,.kinds tr,.faults tr,.problems li{break-inside:avoid}
h2{break-after:avoid}
button{text-decoration:none}
}
`;

/** All of it, for a style element. */
export const STYLE: string = [
  `:root{${LIGHT}}`,
  `@media screen and (prefers-color-scheme:dark){:root:not([data-paper=yes]){${DARK}}}`,
  KIND_LOOKS.map(({ kind }) => `.${kind}{color:var(--${kind})}`).join("\n"),
  TEXT,
  CHARTS,
  TABLES,
  PAPER,
].join("\n");
