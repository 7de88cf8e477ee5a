// Starts the page.
document.documentElement.dataset.ready = "yes";
