// Before anything is drawn, so that a remembered theme does not flash.
try {
  const theme = localStorage.getItem("robustcl-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* storage is off: the system's theme it is */ }
