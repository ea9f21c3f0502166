// Profile Heads: one cell per layer and head, coloured by role; the pointer tells the masses behind it.
import { app } from "../../scripts/app.js";
import { addElement, findNodeByLocator } from "./graph.js";

const NODE = "DummyForcingProfileHeads";
const COLOURS = { sink: "#4285c2", neighbour: "#4c9e6a", dummy: "#c46a3c" };
const CELL = 10;

app.registerExtension({
  name: "dummyforcing.head_map",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    node.dummyForcingHeads = headMap(node);
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.apply(this, arguments);
      show(node, output);
    };
  },
  // Another tab and back, undo and redo make every node anew.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) show(findNodeByLocator(locator), output);
  },
});

function show(node, output) {
  const heads = output?.dummyforcing_heads?.[0];
  if (heads) node?.dummyForcingHeads?.show(heads);
}

function headMap(node) {
  const box = document.createElement("div");
  box.className = "dummyforcing-heads";
  box.style.cssText = "flex-direction:column;gap:4px;font:12px sans-serif;color:#ccc";
  const grid = document.createElement("div");
  const line = document.createElement("div");
  line.style.minHeight = "30px";
  box.append(grid, line);
  let rows = 0;
  const open = addElement(node, "dummyforcing_heads", box, () => rows * (CELL + 1) + 60);

  return {
    show({ roles, mass }) {
      rows = roles.length;
      grid.style.cssText = `display:grid;gap:1px;grid-template-columns:repeat(${roles[0].length},1fr)`;
      grid.replaceChildren(...roles.flatMap((row, layer) => row.map((role, head) => cell(layer, head, role, mass))));
      line.textContent = counts(roles);
      open(true);
    },
  };

  function cell(layer, head, role, mass) {
    const element = document.createElement("div");
    element.style.cssText = `height:${CELL}px;background:${COLOURS[role] ?? "#6e6e76"}`;
    const [sink, neighbour, current] = mass[layer][head].map((share) => `${(100 * share).toFixed(1)} %`);
    const text = `layer ${layer}, head ${head}: ${role} — sink ${sink}, neighbours ${neighbour}, current ${current}`;
    element.title = text;
    element.onpointerenter = () => (line.textContent = text);
    return element;
  }
}

function counts(roles) {
  const all = roles.flat();
  const names = Object.keys(COLOURS).filter((role) => all.includes(role));
  return names.map((role) => `${role} ${all.filter((other) => other === role).length}`).join(" · ");
}
