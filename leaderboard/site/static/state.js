// What a page shows, kept in the part of its address behind "#", so that a view can be sent or kept.
"use strict";
const PageState = (() => {
  const read = () => new URLSearchParams(location.hash.slice(1));
  let waiting = null;
  let pending = 0;

  // Set some names; null, undefined and "" take one away.  Written a moment later: browsers refuse many in a row.
  function set(changes) {
    waiting = waiting || read();
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === undefined || value === "") waiting.delete(name);
      else waiting.set(name, value);
    }
    clearTimeout(pending);
    pending = setTimeout(() => {
      // An anchor is a name without a value.
      const text = waiting.toString().replace(/=(?=&|$)/g, "").replaceAll("%2C", ",").replaceAll("%3A", ":");
      waiting = null;
      if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }, 150);
  }

  // `apply` is called with what the address says, now and whenever somebody changes it.
  function follow(apply) {
    apply(read());
    window.addEventListener("hashchange", () => apply(read()));
  }

  // With more than an anchor behind "#", the browser itself goes nowhere.
  addEventListener("load", () => {
    const [name] = location.hash.slice(1).split("&");
    if (location.hash.includes("&") && !name.includes("=")) document.getElementById(decodeURIComponent(name))?.scrollIntoView();
  });
  return { set, follow };
})();
