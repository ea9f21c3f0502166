// Nodes on the open page, in both looks of a node and inside subgraphs.
import { app } from "../../scripts/app.js";

export const rootGraph = () => app.rootGraph ?? app.graph;

// Every node, those in subgraphs too.
export function allNodes(graph = rootGraph()) {
  const nodes = graph?._nodes ?? [];
  return nodes.concat(nodes.flatMap((node) => (node.subgraph ? allNodes(node.subgraph) : [])));
}

// The subgraph nodes that a node is in.
export function outerNodes(node) {
  if (node.graph === rootGraph()) return [];
  const outer = allNodes().filter((other) => other.subgraph && other.subgraph === node.graph);
  return outer.concat(outer.flatMap(outerNodes));
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
