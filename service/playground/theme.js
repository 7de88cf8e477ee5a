// Sets the colours before the first paint: those chosen before, otherwise those that the system prefers.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("twotower.theme");
  } catch {
    // A browser that keeps nothing shows the system's colours.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
