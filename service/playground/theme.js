// Runs before the first paint and without any module. It sets the colours: those chosen before, otherwise those that the system
// prefers. And it tells when a module of the page cannot be read, because then no module can.
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("twotower.theme");
  } catch {
    // A browser that keeps nothing shows the system's colours.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

addEventListener(
  "error",
  (failed) => {
    if (!(failed.target instanceof HTMLScriptElement)) return;
    const notice = document.getElementById("notice");
    notice.textContent = "A part of this page could not be read from the server. Is `twotower serve` still running? Reload the page.";
    notice.hidden = false;
  },
  true,
);
