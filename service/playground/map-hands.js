// The hands on a map: pointers, wheel and keys. One pointer that is held drags, two pinch, and one that is not points.

const REACH_PX = 12; // around the pointer
const FINGER_PX = 22;
const DRAG_PX = 4; // a pointer that moves less clicks
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Listens to what happens on the canvas `ink`. `map` has {isOpen, pointAt, pointAtMiddle, leave, pick, useKeys}. */
export function listen(ink, view, map) {
  const held = new Map();
  let dragged = 0;
  const on = (type, act, options) => ink.addEventListener(type, (event) => map.isOpen() && act(event), options);
  const at = (event) => {
    const box = ink.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  function drag(now, before) {
    dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (dragged <= DRAG_PX) return;
    ink.classList.add("held");
    view.look(view.moved(before[0] - now[0], before[1] - now[1]));
  }

  function pinch(now, before, other) {
    dragged = Infinity;
    const apart = (place) => Math.max(1, Math.hypot(place[0] - other[0], place[1] - other[1]));
    view.look(view.moved((before[0] - now[0]) / 2, (before[1] - now[1]) / 2));
    view.zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, apart(now) / apart(before));
  }

  function release(event) {
    if (!held.delete(event.pointerId)) return;
    ink.classList.remove("held");
    if (event.type !== "pointerup" || dragged > DRAG_PX || held.size) return;
    map.pointAt(...at(event), event.pointerType === "touch" ? FINGER_PX : REACH_PX);
    map.pick();
  }

  on("pointerdown", (event) => {
    view.stop();
    map.useKeys(false);
    ink.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    if (held.size === 1) dragged = 0;
  });
  on("pointermove", (event) => {
    const [now, before] = [at(event), held.get(event.pointerId)];
    if (!before) return map.pointAt(...now, REACH_PX);
    held.set(event.pointerId, now);
    const others = [...held].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (!others.length) drag(now, before);
    else if (others.length === 1) pinch(now, before, others[0]);
  });
  on("pointerup", release);
  on("pointercancel", release);
  on("pointerleave", () => map.leave());
  on("dblclick", (event) => {
    const [x, y] = view.toPlace(...at(event));
    view.glide({ ...view.zoomed(2), x: (view.x + x) / 2, y: (view.y + y) / 2 }, () => {});
  });
  on(
    "wheel",
    (event) => {
      event.preventDefault();
      view.stop();
      const lines = event.deltaMode === 1 ? 18 : 1;
      view.zoomAt(...at(event), Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)));
      map.pointAt(...at(event), REACH_PX);
    },
    { passive: false },
  );
  on("keydown", (event) => {
    const act = event.altKey || event.ctrlKey || event.metaKey ? null : actOf(event);
    if (!act) return;
    event.preventDefault();
    map.useKeys(event.key !== "Escape");
    act();
  });
  on("blur", () => map.useKeys(false));

  function actOf({ key, shiftKey }) {
    const glide = (next) => () => view.glide(next, map.pointAtMiddle);
    const step = (shiftKey ? 0.5 : 0.12) * view.width();
    if (KEYS[key]) return glide(view.moved(KEYS[key][0] * step, KEYS[key][1] * step));
    const acts = { "+": glide(view.zoomed(1.6)), "=": glide(view.zoomed(1.6)), "-": glide(view.zoomed(1 / 1.6)), 0: glide(view.whole()) };
    return { ...acts, Enter: map.pick, Escape: map.leave }[key];
  }
}
