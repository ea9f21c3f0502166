// What the live view is made of: a stage for the video, what there is to know, two buttons.

const BUTTON =
  "padding:4px 8px;cursor:pointer;border:1px solid var(--border-color,#555);border-radius:4px;" +
  "background:var(--comfy-input-bg,#222);color:inherit";
const CLAMPED = "overflow:hidden;overflow-wrap:anywhere;max-height:30px;line-height:15px;flex:none";
const ONE_LINE = "overflow:hidden;white-space:nowrap;text-overflow:ellipsis;line-height:15px;flex:none";

export function elements() {
  const box = element("div", "");
  box.className = "dummyforcing-live";
  const stage = element("div", "position:relative;flex:1;min-height:120px;background:#111;overflow:hidden;border-radius:4px");
  const line = element("div", "min-height:15px");
  line.setAttribute("aria-live", "polite");
  const clips = element("div", "display:flex;flex-wrap:wrap;gap:4px");
  // Two lines at most, one for stretches of time; the rest is in their tooltips.
  const rows = ["notes", "memory", "remembers", "prompt"].map((says) => {
    const row = element("div", says === "remembers" ? ONE_LINE : CLAMPED);
    row.hidden = true;
    row.dataset.says = says;
    return row;
  });
  const buttons = element("div", "display:flex;gap:4px");
  const finish = button(`${BUTTON};flex:1`);
  finish.className = "dummyforcing-finish";
  const loop = button(BUTTON);
  loop.textContent = "↻";
  const goOn = button(`${BUTTON};flex:1`);
  goOn.className = "dummyforcing-go-on";
  buttons.append(finish, loop, goOn);
  box.append(stage, line, ...rows, clips, buttons);
  return { box, stage, line, rows, clips, finish, loop, goOn };
}

function element(tag, style) {
  const made = document.createElement(tag);
  made.style.cssText = style;
  return made;
}

function button(style) {
  const made = element("button", style);
  made.type = "button";
  made.hidden = true;
  return made;
}
