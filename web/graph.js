// Nodes and elements on the open page, in both looks of a node and inside subgraphs.
import { app } from "../../scripts/app.js";

const MARGIN = 10;

export const rootGraph = () => app.rootGraph ?? app.graph;

// Every node, those in subgraphs too.
export function allNodes(graph = rootGraph()) {
  const nodes = graph?._nodes ?? [];
  return nodes.concat(nodes.flatMap((node) => (node.subgraph ? allNodes(node.subgraph) : [])));
}

// The server names a node by its path: "12:5" is node 5 of subgraph node 12.
export function findNode(executionId) {
  const path = String(executionId).split(":");
  const last = path.pop();
  let graph = rootGraph();
  for (const id of path) graph = graph?.getNodeById(id)?.subgraph;
  return graph?.getNodeById(last);
}

// Saved outputs name it by the definition of its subgraph: "<uuid>:5".
export function findNodeByLocator(locator) {
  const path = String(locator).split(":");
  const graph = path.length > 1 ? rootGraph().subgraphs?.get(path[0]) : rootGraph();
  return graph?.getNodeById(path.at(-1));
}

// Calls `show` with what the node returned for the page, after every run that reaches it.
export function onOutput(node, show) {
  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.apply(this, arguments);
    show(output);
  };
}

// An element inside a node, closed at first. `height()` is what it needs in pixels. Returns a function that opens or
// closes it.
export function addElement(node, name, element, height) {
  let open = false;
  let grown = 0; // by how much the node had to
  const room = () => (open ? height() + 2 * MARGIN : 0);
  // The type makes a subgraph show it outside too.
  const widget = node.addDOMWidget(name, "preview", element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: room,
    getMaxHeight: () => (open ? Number.MAX_SAFE_INTEGER : 0),
  });
  widget.serialize = false; // not in the saved workflow
  // Colours of the user's palette.
  element.style.cssText += ";display:none;flex-direction:column;gap:4px;font:12px sans-serif;color:var(--input-text,#ccc)";

  return (wanted) => {
    if (open === wanted) return;
    const before = room();
    open = wanted;
    element.style.display = open ? "flex" : "none";
    element.style.minHeight = `${open ? height() : 0}px`;
    if (open) grown = Math.max(node.computeSize()[1] - node.size[1], 0); // a tall node has the room already
    resize(node, open ? grown : -grown);
    // A subgraph's node grows by itself, and stays large.
    if (!open) for (const outer of outerNodes(node)) resize(outer, -before);
  };
}

function resize(node, change) {
  const least = node.computeSize();
  node.setSize([Math.max(node.size[0], least[0]), Math.max(node.size[1] + change, least[1])]);
  node.setDirtyCanvas?.(true, true);
}

// The subgraph nodes that a node is in.
function outerNodes(node) {
  const outer = allNodes().filter((other) => other.subgraph && other.subgraph === node.graph);
  return outer.concat(outer.flatMap(outerNodes));
}
