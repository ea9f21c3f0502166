// Two layers of video: the next one loads over the one that is seen, which stays until the next can play. A video
// without a picture is transparent, so that there is no moment without one.

const LEAST_MS = 100; // that each can be seen: chunks may come faster than they load

// Fills a stage with them. `loops()`: whether a chunk plays again where the next is not there, or holds its last frame.
export function newestVideo(stage, label, loops) {
  let seen = layer(stage, label);
  let over = layer(stage, label);
  let next = null;
  let loading = false;
  let leaving = null; // the timer of the one that was seen until now

  function load() {
    if (loading || leaving !== null || next === null) return;
    loading = true;
    over.style.zIndex = 1;
    seen.style.zIndex = 0;
    over.loop = next.final || loops();
    over.controls = false;
    over.final = next.final;
    over.src = next.source;
    next = null;
  }

  function swap() {
    [seen, over] = [over, seen];
    seen.dataset.shown = "";
    seen.controls = seen.final;
    stage.style.opacity = 1;
    play(seen);
    delete over.dataset.shown;
    over.pause();
    loading = false;
    leaving = setTimeout(goOn, LEAST_MS);
  }

  // The layer above is free.
  function goOn() {
    clearTimeout(leaving);
    leaving = null;
    empty(over);
    loading = false;
    load();
  }

  for (const video of [seen, over]) {
    video.addEventListener("canplay", () => video === over && loading && swap());
    video.addEventListener("error", () => video === over && loading && goOn()); // gone: the one that is seen stays
  }
  onSeen(stage, () => seen.hasAttribute("src") && !(seen.ended && !seen.loop) && play(seen));

  return {
    chunk(source) {
      next = { source, final: false };
      load();
    },
    // The whole clip, at once: what still loads is of no use any more.
    clip(source) {
      next = { source, final: true };
      goOn();
    },
    shows: () => seen.hasAttribute("src"),
    // What is seen is no longer what is made.
    dim() {
      stage.style.opacity = 0.4;
      seen.controls = false;
    },
    clear() {
      next = null;
      goOn();
      empty(seen);
      stage.style.opacity = 1;
    },
    // The setting has changed.
    loop(on) {
      const holds = seen.ended; // asked first: a video that loops never ends
      if (!seen.final) seen.loop = on;
      if (on && holds) play(seen);
    },
  };
}

function layer(stage, label) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, autoplay: true, playsInline: true });
  // Out of the flow, so that a large picture does not stretch the node.
  video.style.cssText = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain";
  video.setAttribute("aria-label", label);
  stage.append(video);
  return video;
}

const play = (video) => video.play().catch(() => {}); // off the page it cannot

function empty(video) {
  delete video.dataset.shown;
  video.final = video.controls = false;
  video.removeAttribute("src");
  video.load(); // lets go of the file
}

// A collapsed node takes its elements off the page, which pauses them.
function onSeen(stage, then) {
  let before = false;
  new ResizeObserver(() => {
    const now = stage.offsetHeight > 0;
    if (now && !before) then();
    before = now;
  }).observe(stage);
}
