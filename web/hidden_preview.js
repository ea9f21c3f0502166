// The host's own picture of a node's output: ours stands in its place, and two would be one too many.

export function hideHostPreview(node) {
  node.hideOutputImages = true; // in Nodes 2.0
  // The classic canvas puts its video into the node's container, and makes a widget for it where there is none.
  node.videoContainer = document.createElement("div");
}
