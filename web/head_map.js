// Profile Heads: one cell per layer and head, coloured by role; pointer and arrow keys tell the masses behind it.
import { app } from "../../scripts/app.js";
import { addElement } from "./element.js";
import { findNodeByLocator, onOutput } from "./graph.js";
import { text } from "./texts.js";

const NODE = "DummyForcingProfileHeads";
const COLOURS = { sink: "#4285c2", neighbour: "#4c9e6a", dummy: "#c46a3c" };
const CELL = 10;
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

app.registerExtension({
  name: "dummyforcing.head_map",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    node.dummyForcingHeads = headMap(node);
    onOutput(node, (output) => show(node, output));
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
  const grid = document.createElement("div");
  grid.tabIndex = 0;
  grid.setAttribute("role", "group");
  const legend = document.createElement("div");
  legend.style.cssText = "display:flex;flex-wrap:wrap;gap:2px 10px";
  const line = document.createElement("div");
  line.style.minHeight = "60px"; // four rows of text, whether they are there or not
  line.setAttribute("aria-live", "polite");
  box.append(grid, legend, line);
  let heads = { roles: [], mass: [], mean: [] };
  let chosen = null; // [layer, head]
  const open = addElement(node, "dummyforcing_heads", box, () => heads.roles.length * (CELL + 1) + 90);

  function choose(place) {
    for (const cell of grid.children) cell.style.outline = "";
    chosen = place;
    line.textContent = place ? headText(heads, ...place) : text("heads_hint");
    if (!place) return;
    const [layer, head] = place;
    grid.children[layer * heads.roles[0].length + head].style.outline = "2px solid currentColor";
  }

  grid.onpointerleave = grid.onblur = () => choose(null);
  grid.onkeydown = (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation(); // the canvas has keys of its own
    const size = [heads.roles.length, heads.roles[0].length];
    choose(chosen ? chosen.map((at, axis) => Math.min(Math.max(at + step[axis], 0), size[axis] - 1)) : [0, 0]);
  };

  return {
    show(next) {
      heads = { ...next, mean: meanOf(next.mass.flat()), most: Math.max(...(next.change ?? []).flat()) };
      const cells = heads.roles.flatMap((row, layer) =>
        row.map((role, head) => {
          const cell = document.createElement("div");
          cell.style.cssText = `height:${CELL}px;outline-offset:-2px;background:${colour(role)}`;
          cell.onpointerenter = () => choose([layer, head]);
          return cell;
        }),
      );
      const columns = heads.roles[0].length;
      grid.style.cssText = `display:grid;gap:1px;grid-template-columns:repeat(${columns},1fr)`;
      grid.replaceChildren(...cells);
      const counts = rolesIn(heads.roles);
      const roles = counts.map(named).join(", ");
      grid.setAttribute("aria-label", text("heads_table", { layers: heads.roles.length, heads: columns, roles }));
      legend.replaceChildren(...counts.map(legendEntry));
      choose(null);
      open(true);
    },
  };
}

const colour = (role) => COLOURS[role] ?? "#6e6e76";
const roleText = (role) => (role in COLOURS ? text(`role_${role}`) : role);
const named = ([role, count]) => `${roleText(role)} ${count}`;

function rolesIn(roles) {
  const all = roles.flat();
  return [...new Set([...Object.keys(COLOURS), ...all])]
    .map((role) => [role, all.filter((other) => other === role).length])
    .filter(([, count]) => count > 0);
}

function legendEntry(counted) {
  const entry = document.createElement("span");
  const swatch = document.createElement("span");
  swatch.style.cssText = `display:inline-block;width:8px;height:8px;margin-right:4px;background:${colour(counted[0])}`;
  entry.append(swatch, named(counted));
  return entry;
}

const meanOf = (rows) => rows[0].map((_, region) => rows.reduce((sum, row) => sum + row[region], 0) / rows.length);

// Roles go by how far a head's mass is above the average head's, so that is told too.
function headText({ roles, mass, mean, change, most }, layer, head) {
  const [sink, neighbour, current] = mass[layer][head].map((share, region) => {
    const times = mean[region] > 0 ? ` (${(share / mean[region]).toFixed(1)}x)` : "";
    return `${(100 * share).toFixed(1)} %${times}`;
  });
  const masses = text("head", { layer, head, role: roleText(roles[layer][head]), sink, neighbour, current });
  if (!change || most === 0) return masses; // a clip without far frames
  const share = ((100 * change[layer][head]) / most).toFixed(1);
  return `${masses}. ${text("head_change", { share })}`;
}
