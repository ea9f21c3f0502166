// Takes on the page: a list to pick a name from, and the one that a crash has left unfinished.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { text } from "./texts.js";

const GO_ON = "go on";
const OFF = "off";
// Nodes that name a take, and the widget that does.
const NAMES = {
  DummyForcingStreamingSampler: "take_name",
  DummyForcingLoadTake: "take",
  DummyForcingDecodeTake: "take",
};

const widget = (node, name) => node.widgets?.find((one) => one.name === name);

// {takes: names, the newest first; unfinished: {name, chunks}, or null}
export async function takes() {
  try {
    const answer = await api.fetchApi("/dummyforcing/takes");
    return answer.ok ? await answer.json() : { takes: [], unfinished: null };
  } catch {
    return { takes: [], unfinished: null };
  }
}

export const keepsTakes = (node) => (widget(node, "take")?.value ?? OFF) !== OFF;

// The Streaming Sampler's next run goes on with this take.
export function goOnWith(node, name) {
  for (const [which, value] of [["take", GO_ON], ["take_name", name]]) set(node, which, value);
}

function set(node, name, value) {
  const one = widget(node, name);
  if (!one) return;
  one.value = value;
  one.callback?.(value);
  node.setDirtyCanvas?.(true, true);
}

// What of a sampler's take is asked for in each of its modes; the rest is hidden, and keeps its values.
const ASKED = {
  take_name: (mode) => mode !== OFF,
  from_chunk: (mode) => mode === "branch",
  take_video: (mode) => mode === GO_ON || mode === "branch",
  snapshot_every: (mode) => mode !== OFF,
  dummyforcing_takes: (mode) => mode === GO_ON || mode === "branch",
};

function showAsked(node) {
  const mode = widget(node, "take")?.value ?? OFF;
  for (const [name, asked] of Object.entries(ASKED)) {
    const one = widget(node, name);
    if (one) one.hidden = one.options.hidden = !asked(mode);
  }
}

// A node that somebody has made taller stays so, by as much.
function showAskedAndFit(node) {
  const before = node.computeSize()[1];
  showAsked(node);
  const after = node.computeSize()[1];
  if (!LiteGraph.vueNodesMode) node.setSize([node.size[0], Math.max(node.size[1] + after - before, after)]);
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "dummyforcing.takes",
  nodeCreated(node) {
    const name = NAMES[node.comfyClass];
    if (!name) return;
    const button = node.addWidget("button", "dummyforcing_takes", null, () => choose(node, name), { serialize: false });
    button.serialize = false; // neither in the prompt nor in the saved workflow
    button.label = text("choose_take");
    button.tooltip = text("choose_take_tooltip");
    const mode = name === "take_name" ? widget(node, "take") : undefined;
    if (!mode) return;
    const before = mode.callback;
    mode.callback = function () {
      const answer = before?.apply(this, arguments);
      showAskedAndFit(node);
      return answer;
    };
    showAskedAndFit(node);
  },
  // Its widgets have the saved values now, and it has the saved size.
  loadedGraphNode(node) {
    if (NAMES[node.comfyClass] === "take_name") showAsked(node);
  },
});

async function choose(node, name) {
  const found = await takes();
  const items = found.takes.map((take) => ({
    content: take === found.unfinished?.name ? text("unfinished_take", { take }) : take,
    callback: () => set(node, name, take),
  }));
  const none = [{ content: text("no_takes"), disabled: true }];
  // Where the pointer is: the list is asked for first, and a click that is long over opens no menu.
  new LiteGraph.ContextMenu(items.length ? items : none, { event: pointer, scale: 1 }, window);
}

let pointer = null;
window.addEventListener("pointerup", (event) => (pointer = event), { capture: true, passive: true });
