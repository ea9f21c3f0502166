// A looping video that is always given the newest source: chunks may come faster than it loads them.

const READABLE = 2; // HAVE_CURRENT_DATA
const LEAST_MS = 100; // that each can be seen

// Returns a function that takes the next address; null empties the video.
export function newestVideo(video) {
  Object.assign(video, { muted: true, loop: true, autoplay: true, playsInline: true });
  let next = null;
  const step = () => {
    const loading = video.hasAttribute("src") && video.readyState < READABLE && !video.error;
    if (next === null || loading) return;
    video.src = next;
    next = null;
  };
  video.addEventListener("loadeddata", () => setTimeout(step, LEAST_MS));
  video.addEventListener("error", step);

  // A collapsed node takes its elements off the page, which pauses them.
  let seen = false;
  new ResizeObserver(() => {
    const before = seen;
    seen = video.offsetHeight > 0;
    if (seen && !before && video.hasAttribute("src")) video.play().catch(() => {});
  }).observe(video);

  return (source) => {
    next = source;
    if (source === null) {
      video.removeAttribute("src");
      video.load();
    } else step();
  };
}
